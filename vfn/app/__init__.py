"""`python -m vfn.app`: predict stains in the browser, on this machine alone.

page.html.j2, app.js --guard--> server --workspace (dropped files, results) / folders--> source
source --find_samples--> fields --queue: one prediction at a time, by predict.py's code--> OME-TIFFs
OME-TIFFs and inputs --preview--> pixels of the part that is looked at
"""
