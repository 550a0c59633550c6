# A look at every file, beside the jobs that use the network: none of them waits for it or is run again for it.
rule check:
    output:
        CHECK,
    log:
        ".talkies/logs/check.log",
    benchmark:
        ".talkies/benchmarks/check.tsv"
    priority: 100
    threads: THREADS
    resources:
        **job("check"),
    params:
        spec=lambda wildcards: checking.spec(PLAN),
    shell:
        "exec talkies check --receipt {output:q} --threads {threads} --log {log:q}"


# One page of everything, then the verdict, which fails when a pair could not be made.
rule gallery:
    input:
        FILMS_DONE,
        plots=PLOTS,
        check=CHECK if PLAN.settings["check"] else [],
    output:
        update(PAGE),  # what is not ours there is for the command to move aside, not for Snakemake to remove
    log:
        ".talkies/logs/gallery.log",
    benchmark:
        ".talkies/benchmarks/gallery.tsv"
    resources:
        **job("gallery"),
    params:
        spec=PLAN.gallery(),
    shell:
        "exec talkies gallery --log {log:q}"


# What `snakemake --report report.zip` carries: links to all that the page shows, since the films are no output of ours.
rule gallery_report:
    input:
        page=PAGE,
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
    resources:
        **job("gallery"),
    params:
        spec=PLAN.gallery(),
    shell:
        "exec talkies gallery --report {output:q} --log {log:q}"


rule verdict:
    input:
        REPORTED,
        page=PAGE,
    output:
        VERDICT,
    log:
        ".talkies/logs/verdict.log",
    benchmark:
        ".talkies/benchmarks/verdict.tsv"
    resources:
        **job("verdict"),
    params:
        spec=PLAN.gallery(),
    shell:
        "exec talkies verdict --receipt {output:q} --log {log:q}"
