"""One file per claim: what is claimed, how it is measured, and the command that measures it again."""
