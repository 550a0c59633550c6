# Silent films: many pairs with one loaded model. Films are not declared as outputs; their records describe them.
rule animate:
    input:
        needed("animate"),
    output:
        ".talkies/done/animate/{name}",
    log:
        ".talkies/logs/animate/{name}.log",
    benchmark:
        ".talkies/benchmarks/animate/{name}.tsv"
    container:
        image_to_animate
    threads: THREADS
    resources:
        **job("animate"),
    shell:
        "exec talkies shard animate {wildcards.name} --threads {threads} --minutes {resources.runtime} --log {log:q}"
