# Sets silent films into their whole picture, or enlarges them, if the settings ask for it.
rule show:
    input:
        needed("show"),
    output:
        ".talkies/done/show/{name}",
    log:
        ".talkies/logs/show/{name}.log",
    benchmark:
        ".talkies/benchmarks/show/{name}.tsv"
    priority: 50  # finish films before others are started
    localrule: PLAN.joined
    resources:
        **job("show"),
    shell:
        "exec talkies shard show {wildcards.name} --minutes {resources.runtime} --log {log:q}"
