Comparison = compare = plot_steps_to_target = None
