# One page of everything, then the verdict, which fails when a pair could not be made.
rule gallery:
    input:
        FILMS_DONE,
    output:
        PAGE,
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


rule verdict:
    input:
        FILMS_DONE,
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
