# How long pairs, stages and shards took, for `snakemake --report` and beside the gallery.
rule plots:
    input:
        FILMS_DONE,
    output:
        report(update(PLOTS), category="Times", caption="../report/plots.rst"),
    log:
        ".talkies/logs/plots.log",
    benchmark:
        ".talkies/benchmarks/plots.tsv"
    localrule: True
    shell:
        "exec talkies plots --log {log:q}"
