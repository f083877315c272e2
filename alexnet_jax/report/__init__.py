"""A run directory -> report.html and figures/: what was trained, how it went, and how well it does.

    write.py                    a run -> its page; the sections that need no network
    words.py                    history and config in words
    curves.py charts.py         figures of the history and of other numbers
    pictures.py bars.py         figures of pictures
    answers.py                  what follows from the networks' answers; pure numpy
    network.py                  the sections for which networks and dataset are asked again; needs JAX
    activations.py              what the layers of a network put out
    compare.py                  several runs on one page
    page.py style.py            sections -> a page; how all figures look

A new section is one function that returns a `Section`, and one line in write.py or network.py.
"""
