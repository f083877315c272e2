"""Writes the report of a run: report.html and figures/ in its directory. See `report.write.write_report`.

    write.py                    the report of a run, and the sections that need no network
    words.py                    texts and tables about the history and the config
    curves.py charts.py         figures of the history and of other numbers
    pictures.py bars.py         figures of pictures
    answers.py                  confusions and mistakes in the networks' answers; pure numpy
    network.py                  the sections that need the networks and the dataset; needs JAX
    activations.py              the outputs of the layers of a network
    compare.py                  several runs on one page
    page.py style.py            the page from its sections; the look of all figures

For a new section, write a function that returns a `Section`, and call it in write.py or network.py.
"""
