"""Tables of a study in, matplotlib figures out: one function for each figure, in a file for each subject.

A function here selects and pivots rows; it computes no result. It may take for granted that the tables it needs are
there and have rows: `nanogpt.report.figures` holds the list of figures and asks for none without its tables.
"""
