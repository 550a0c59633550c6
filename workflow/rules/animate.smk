# Many pairs through one loaded model: silent films. The films are not declared: their records tell about them.
rule animate:
    input:
        checkpoint=WEIGHTS,
        made=pair_inputs,
    output:
        ".talkies/receipts/animate/{shard}.json",
    log:
        ".talkies/logs/animate/{shard}.log",
    benchmark:
        ".talkies/benchmarks/animate/{shard}.tsv"
    threads: THREADS
    resources:
        **job("animate", "gpu"),
    params:
        spec=lambda wildcards: PLAN.animation(wildcards.shard),
        generation=lambda wildcards: PLAN.generation.get(wildcards.shard, 0),
    shell:
        "exec talkies shard animate {wildcards.shard} --receipt {output:q} --threads {threads} --log {log:q}"
