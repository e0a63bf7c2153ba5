"""A pytest plugin with which diffusers' own tests run on converted denoisers.

Its settings come by environment variables, since it is imported before pytest has read the command line:
"""

OUTCOMES = "DIFFUSERS_TESTS_OUTCOMES"  # the file for what became of the tests
CONVERT = "DIFFUSERS_TESTS_CONVERT"  # "1": every denoiser is converted
