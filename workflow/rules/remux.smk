# The driving video's sound onto the silent films; with it they enter the results.
rule remux:
    input:
        ".talkies/receipts/animate/{shard}.json",
    output:
        ".talkies/receipts/remux/{shard}.json",
    log:
        ".talkies/logs/remux/{shard}.log",
    benchmark:
        ".talkies/benchmarks/remux/{shard}.tsv"
    resources:
        **job("remux"),
    params:
        spec=lambda wildcards: PLAN.remuxing(wildcards.shard),
        generation=lambda wildcards: PLAN.generation.get(wildcards.shard, 0),
    shell:
        "exec talkies shard remux {wildcards.shard} --receipt {output:q} --generation {params.generation}"
        " --log {log:q}"
