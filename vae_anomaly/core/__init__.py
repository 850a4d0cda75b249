"""Pure: values in, values out; knows no file, network, clock or global seed."""
