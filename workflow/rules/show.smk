# Silent films set into their whole picture, or enlarged, where that is asked for.
rule show:
    input:
        needed("show"),
    output:
        ".talkies/receipts/show/{receipt}.json",
    log:
        ".talkies/logs/show/{receipt}.log",
    benchmark:
        ".talkies/benchmarks/show/{receipt}.tsv"
    priority: 50  # films that can be had come before others are begun
    resources:
        **job("show"),
    shell:
        "exec talkies shard show {wildcards.receipt} --log {log:q}"
