"""Ready recipes, installed as data: ``Recipe.load("vgg16-ijcnn2020")`` finds them by name."""
