"""From scores of views to figures: accuracy, mean average precision, files of predictions."""
