"""Readings become observations: rules as data, one module per family, and an engine that holds their state.

Pure: time comes with each sweep, nothing here reads a clock, a file or chance. ``engine.Judge`` is the door,
``table.RULES`` are the rules, ``rules`` says what a rule is made of, ``rows`` lists what the rules have to answer.
"""
