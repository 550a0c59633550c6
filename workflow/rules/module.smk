# For Snakefiles that use this workflow by `module`: without the handlers of common.smk a run has no plan.
add_handlers(workflow, onstart=SESSION.start, onsuccess=SESSION.end, onerror=SESSION.end)
