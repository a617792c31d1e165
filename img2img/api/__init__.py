"""The public functions, apart from those of evaluation, interchange and lab data."""
