"""Who reads the rows of a window: this process, Spark, or BigQuery. All give the same profile, sample and facts."""
