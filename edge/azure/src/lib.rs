//! Where an Azure node learns its addresses: wire server and Azure Stack file.
