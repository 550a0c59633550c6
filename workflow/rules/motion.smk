# The keypoints of each driving video, once, for all pictures.
rule motion:
    input:
        needed("motion"),
    output:
        ".talkies/done/motion/{name}",
    log:
        ".talkies/logs/motion/{name}.log",
    benchmark:
        ".talkies/benchmarks/motion/{name}.tsv"
    threads: THREADS
    resources:
        **job("motion"),
    shell:
        "exec talkies shard motion {wildcards.name} --threads {threads} --minutes {resources.runtime} --log {log:q}"
