"""`python -m vfn.doctor`: what is wrong with a data set, before training finds out.

fields --reading, measure--> numbers --findings, likeness, leakage--> findings --page, tables--> DIR
"""
