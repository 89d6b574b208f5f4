"""The history checker: does what was taken away stay away, and what was given hold?

Clients ask every replica without pause while admins take rights away and give them back and
faults happen; each call is logged with when it began and when its answer was there. What no
order of events could explain is a violation. Nothing judges while it runs: `workload` and `faults`
act, `record` remembers, `checker` decides afterwards, from the log alone.
"""
