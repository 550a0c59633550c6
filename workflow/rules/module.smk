# Where another Snakefile uses this workflow by `module`: a run without the handlers of common.smk has no plan.
snakemake_private.add_handlers(workflow, onstart=onstart, onsuccess=onsuccess, onerror=onerror)
