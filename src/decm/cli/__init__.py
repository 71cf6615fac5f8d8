"""Verbs: `decm <verb> key=value ...`, Hydra's grammar everywhere. Configurations end here: nothing below sees one."""
