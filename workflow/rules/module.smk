# For Snakefiles that use this workflow by `module`: without the handlers of common.smk a run has no plan.
snakemake_private.add_handlers(workflow, onstart=onstart, onsuccess=onsuccess, onerror=onerror)
