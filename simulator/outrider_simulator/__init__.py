"""Doubles of the outside that real code runs on: a GPU driver's library that can be told what to be."""
