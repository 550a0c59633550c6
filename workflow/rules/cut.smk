# Driving videos, cropped to squares of a constant rate, with their sound; not declared as inputs either.
rule cut:
    output:
        ".talkies/done/cut/{name}",
    log:
        ".talkies/logs/cut/{name}.log",
    benchmark:
        ".talkies/benchmarks/cut/{name}.tsv"
    resources:
        **job("cut"),
    shell:
        "exec talkies shard cut {wildcards.name} --minutes {resources.runtime} --log {log:q}"
