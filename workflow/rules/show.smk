# Sets silent films into their whole picture, or enlarges them, if the settings ask for it.
rule show:
    input:
        needed("show"),
    output:
        ".talkies/receipts/show/{receipt}.json",
    log:
        ".talkies/logs/show/{receipt}.log",
    benchmark:
        ".talkies/benchmarks/show/{receipt}.tsv"
    priority: 50  # finish films before others are started
    resources:
        **job("show"),
    shell:
        "exec talkies shard show {wildcards.receipt} --log {log:q}"
