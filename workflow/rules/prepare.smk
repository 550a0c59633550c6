# Pictures and videos: looked at, cropped, their digests taken. By shard, never a job a picture.
rule prepare:
    input:
        originals,
    output:
        ".talkies/receipts/prepare/{shard}.json",
    params:
        spec=lambda wildcards: PLAN.preparation(wildcards.shard),
    log:
        ".talkies/logs/prepare/{shard}.log",
    benchmark:
        ".talkies/benchmarks/prepare/{shard}.tsv"
    resources:
        mem_mb=2000,
    shell:
        "exec talkies shard prepare {wildcards.shard} --receipt {output:q} --log {log:q}"
