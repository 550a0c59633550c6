# Adds the driving video's sound to the silent films and moves them to the results. On a cluster, the animating jobs do
# this too if possible (plan.joined); then this rule only notes it, and runs where Snakemake runs.
rule remux:
    input:
        needed("remux"),
    output:
        ".talkies/done/remux/{name}",
    log:
        ".talkies/logs/remux/{name}.log",
    benchmark:
        ".talkies/benchmarks/remux/{name}.tsv"
    priority: 50  # finish films before others are started
    localrule: PLAN.joined
    resources:
        **job("remux"),
    shell:
        "exec talkies shard remux {wildcards.name} --minutes {resources.runtime} --log {log:q}"
