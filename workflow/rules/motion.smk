# The keypoints of each driving video, once, for all pictures.
rule motion:
    input:
        needed("motion"),
    output:
        ".talkies/receipts/motion/{receipt}.json",
    log:
        ".talkies/logs/motion/{receipt}.log",
    benchmark:
        ".talkies/benchmarks/motion/{receipt}.tsv"
    threads: THREADS
    resources:
        **job("motion", "gpu"),
    shell:
        "exec talkies shard motion {wildcards.receipt} --threads {threads} --log {log:q}"
