"""Annotations + HU -> nodule masks.

`candidates`: rows of the CSV files; `known_lesions`: what is known of lungs without annotations; `regions`: parts of a
mask, and the protocol of a label rule; `box`: the book's rule; `refined`: without vessels and chest wall; `lidc`:
readers' contours, from `lidc_xml` and `lidc_database`; `lidc_shapes`: shapes of real nodules from these contours;
`mask`: mask files beside the scans; `luna25`: that data set's CSV file; `patients`: which scans are of one patient;
`rules`: the rule of each scan.
"""
