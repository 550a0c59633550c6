# Adds the driving video's sound to the silent films and moves them to the results. On a cluster, the animating jobs do
# this too if possible (plan.joined); then this rule only checks the films, and runs where Snakemake runs.
rule remux:
    input:
        needed("remux"),
    output:
        ".talkies/receipts/remux/{receipt}.json",
    log:
        ".talkies/logs/remux/{receipt}.log",
    benchmark:
        ".talkies/benchmarks/remux/{receipt}.tsv"
    priority: 50  # finish films before others are started
    localrule: PLAN.joined
    resources:
        **job("remux"),
    shell:
        "exec talkies shard remux {wildcards.receipt} --log {log:q}"
