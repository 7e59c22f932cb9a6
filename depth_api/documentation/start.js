// Shows the OpenAPI document that this script's element names. In a file of its own: the page runs no inline script.
SwaggerUIBundle({
  url: document.currentScript.dataset.document,
  dom_id: "#operations",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // it would be a server elsewhere
});
