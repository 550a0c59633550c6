# The keypoints of each driving video, once, for all pictures.
rule motion:
    input:
        checkpoint=WEIGHTS,
        prepared=".talkies/receipts/prepare/{shard}.json",
    output:
        ".talkies/receipts/motion/{shard}.json",
    log:
        ".talkies/logs/motion/{shard}.log",
    benchmark:
        ".talkies/benchmarks/motion/{shard}.tsv"
    threads: THREADS
    resources:
        **job("motion", "gpu"),
    params:
        spec=lambda wildcards: PLAN.motion(wildcards.shard),
    shell:
        "exec talkies shard motion {wildcards.shard} --receipt {output:q} --threads {threads} --log {log:q}"
