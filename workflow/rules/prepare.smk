# Pictures and videos: looked at, cropped, their digests taken. By shard, never a job a picture.
# The files are not declared: their names, sizes and times are in the plan, and with it in `spec`. So a name may hold
# anything, and a file that is gone does not prepare its neighbours again.
rule prepare:
    output:
        ".talkies/receipts/prepare/{shard}.json",
    log:
        ".talkies/logs/prepare/{shard}.log",
    benchmark:
        ".talkies/benchmarks/prepare/{shard}.tsv"
    resources:
        **job("prepare"),
    params:
        spec=lambda wildcards: PLAN.preparation(wildcards.shard),
    shell:
        "exec talkies shard prepare {wildcards.shard} --receipt {output:q} --log {log:q}"
