# Where another Snakefile uses this workflow by `module`: Snakemake runs the handlers of the main Snakefile alone, and a
# run without those of common.smk has no plan. The user's own are kept where they stand above `use rule`.
def both(ours, theirs):
    """Return one handler of two."""

    def handler(log):
        ours()
        return theirs(log)

    return handler


if not workflow.modifier.is_main_snakefile() and not getattr(workflow, "talkies_handlers", False):
    workflow.talkies_handlers = True  # a second `use rule` reads this file again
    workflow._onstart = both(onstart, workflow._onstart)
    workflow._onsuccess = both(onsuccess, workflow._onsuccess)
    workflow._onerror = both(onerror, workflow._onerror)
