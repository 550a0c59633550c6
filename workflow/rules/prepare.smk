# Pictures and videos, cropped and with their digests, many in a job. The files are not declared as inputs: their names,
# sizes and times are in the plan. So names may contain any character, and a removed file does not run a shard again.
rule prepare:
    output:
        ".talkies/receipts/prepare/{receipt}.json",
    log:
        ".talkies/logs/prepare/{receipt}.log",
    benchmark:
        ".talkies/benchmarks/prepare/{receipt}.tsv"
    resources:
        **job("prepare"),
    shell:
        "exec talkies shard prepare {wildcards.receipt} --log {log:q}"
