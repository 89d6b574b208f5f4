"""Generated from proto/ by `make wire`; not edited by hand."""
