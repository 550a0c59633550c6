# The check of every file. No other job waits for it or is run again because of it.
rule check:
    output:
        ".talkies/done/check/{name}",
    log:
        ".talkies/logs/check/{name}.log",
    benchmark:
        ".talkies/benchmarks/check/{name}.tsv"
    priority: 100
    threads: THREADS
    resources:
        **job("check"),
    shell:
        "exec talkies check --job --threads {threads} --log {log:q}"


# The gallery, then the verdict, which fails if a pair could not be made. They take seconds but could wait in the queue
# for hours, so on a cluster they run where Snakemake runs; except with mosaics, which are encoded.
rule gallery:
    input:
        WORK_DONE,
        check=CHECKED,
    output:
        ".talkies/done/gallery/{name}",
    log:
        ".talkies/logs/gallery/{name}.log",
    benchmark:
        ".talkies/benchmarks/gallery/{name}.tsv"
    localrule: not PLAN.settings.gallery.mosaic
    resources:
        **job("gallery"),
    shell:
        "exec talkies gallery --job --log {log:q}"


# The files of `snakemake --report report.zip`: what others may see, with links to films, which are not declared outputs.
rule gallery_report:
    input:
        GALLERY,
    output:
        report(
            directory(SHOWN),
            htmlindex="index.html",
            category="Talkies",
            caption="../report/gallery.rst",
        ),
    log:
        ".talkies/logs/report.log",
    benchmark:
        ".talkies/benchmarks/report.tsv"
    localrule: True
    shell:
        "exec talkies publish --links {output:q} --log {log:q}"


rule verdict:
    input:
        REPORTED,
        GALLERY,
    output:
        VERDICT,
    log:
        ".talkies/logs/verdict.log",
    benchmark:
        ".talkies/benchmarks/verdict.tsv"
    retries: 0  # it fails so that the run does
    localrule: True
    shell:
        "exec talkies verdict --output {output:q} --log {log:q}"
