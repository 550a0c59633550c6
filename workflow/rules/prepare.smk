# Pictures and videos: looked at, cropped, their digests taken. By shard, never a job a picture.
# The files are not declared: their names, sizes and times are in the plan. So a name may hold anything, and a file that
# is gone does not prepare its neighbours again.
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
