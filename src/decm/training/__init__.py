"""Lightning: the module that holds teacher, student and EMA, and the callbacks that say where and when."""
