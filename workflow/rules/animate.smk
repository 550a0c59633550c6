# Silent films: many pairs with one loaded model. Films are not declared as outputs; their records describe them.
rule animate:
    input:
        needed("animate"),
    output:
        ".talkies/receipts/animate/{receipt}.json",
    log:
        ".talkies/logs/animate/{receipt}.log",
    benchmark:
        ".talkies/benchmarks/animate/{receipt}.tsv"
    container:
        image_to_animate
    threads: THREADS
    resources:
        **job("animate", "gpu"),
    shell:
        "exec talkies shard animate {wildcards.receipt} --threads {threads} --log {log:q}"
