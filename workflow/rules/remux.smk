# The driving video's sound onto the silent films; with it they enter the results. On a cluster the jobs that animate do
# that as well where they can (plan.joined): this then only looks at the films, where Snakemake runs.
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
    localrule: PLAN.joined
    resources:
        **job("remux"),
    shell:
        "exec talkies shard remux {wildcards.receipt} --log {log:q}"
