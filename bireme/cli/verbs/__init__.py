"""The verbs, a module or less each; `VERBS` maps a verb's full spelling to its table."""
