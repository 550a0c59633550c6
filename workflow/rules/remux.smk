# The driving video's sound onto the silent films; with it they enter the results.
rule remux:
    input:
        needed("remux"),
    output:
        ".talkies/receipts/remux/{receipt}.json",
    log:
        ".talkies/logs/remux/{receipt}.log",
    benchmark:
        ".talkies/benchmarks/remux/{receipt}.tsv"
    priority: 50  # films that can be had come before others are begun
    resources:
        **job("remux"),
    shell:
        "exec talkies shard remux {wildcards.receipt} --log {log:q}"
