"""People's text: LaMP files, the toy world, samples as token ids."""
