# Pictures, cropped to squares, many in a job. The files are not declared as inputs: the plan knows what they contain. So
# names may contain any character, and a removed file does not run a shard again.
rule crop:
    output:
        ".talkies/done/crop/{name}",
    log:
        ".talkies/logs/crop/{name}.log",
    benchmark:
        ".talkies/benchmarks/crop/{name}.tsv"
    resources:
        **job("crop"),
    shell:
        "exec talkies shard crop {wildcards.name} --minutes {resources.runtime} --log {log:q}"
