# One page of everything, then the verdict, which fails when a pair could not be made.
rule gallery:
    input:
        expand(".talkies/receipts/remux/{shard}.json", shard=PLAN.shards),
    output:
        PAGE,
    params:
        spec=PLAN.gallery(),
    log:
        ".talkies/logs/gallery.log",
    benchmark:
        ".talkies/benchmarks/gallery.tsv"
    shell:
        "exec talkies gallery --log {log:q}"


rule verdict:
    input:
        expand(".talkies/receipts/remux/{shard}.json", shard=PLAN.shards),
        page=PAGE,
    output:
        VERDICT,
    log:
        ".talkies/logs/verdict.log",
    benchmark:
        ".talkies/benchmarks/verdict.tsv"
    shell:
        "exec talkies verdict --receipt {output:q} --log {log:q}"
