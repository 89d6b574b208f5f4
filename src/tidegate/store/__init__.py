"""State on JetStream: entries with compare-and-set, atomic commits, the change feed, views.

Two rules hold everywhere above this package. *Writes are commits*: one atomic batch in which
every entry names the revision it expects. *Reads are views*: memory that follows the stream
in order. This package knows no domain; it moves entries and events.
"""
