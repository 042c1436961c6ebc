"""The papers' tables with our numbers beside them: data set x model x horizon x seed.

    python -m benchmarks.accuracy prepare FOLDER     # needs the data (TSFORMER_DATA), all packages
    python -m benchmarks.accuracy run FOLDER         # needs torch, numpy, statsmodels, safetensors
    python -m benchmarks.accuracy table              # from the results to docs/results.md

FOLDER holds all that `run` reads, so it may travel to another machine; what is done is not done
again, and a line is added to the results for each cell. `--only 'etth1/ridge*' 'etth1/*/0'` takes
the cells of which the name, data/model/context/horizon/seed, fits a pattern, in that order.

Scores are those of arXiv 2012.07436 and all that followed: values standardised by the training
part, every window of the test part, every variate. Settings and the rows "chosen on validation"
have never seen a test score.
"""
