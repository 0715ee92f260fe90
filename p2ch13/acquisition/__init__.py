"""Public servers and DICOM folders -> a data folder in LUNA16's layout.

`luna16`: the archives and what they hold; `download`: fetches and unpacks them; `verify`: checks a data folder;
`import_dicom`: converts DICOM series.
"""
